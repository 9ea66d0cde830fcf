"""Is it something simpler than a stream of values: more variance, another start, a higher rate, a fixed path?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.studies.builders import IN_SMALL
from experiments.studies.declared import Declared
from experiments.studies.pictures import ratios_picture
from experiments.studies.study import Arm, Experiment, Size, Study, against_value
from experiments.studies.wording import speed_block

V1, V2 = "blocks.0.attn.W_V", "blocks.1.attn.W_V"


def _controls(size: Size) -> list[Arm]:
    from circuits.config.parts import Start
    from circuits.config.streams import Stream
    from experiments.runs.config import icl_run
    from experiments.runs.training_config import Rate, TrainingConfig
    from experiments.studies.schedules import SMALL_GRADIENTS, named, seeds

    def at_rate(factor: float, *begins: str) -> TrainingConfig:
        return replace(SMALL_GRADIENTS, rates=tuple(Rate(name, factor) for name in begins))

    # A stream adds an independent term of about the same variance, so it about doubles it.
    scaled, sum_of_both = Start(V2, scale=2**0.5), Start(V2, add=V1)
    arms = []
    for seed in seeds(size, 10):
        arms += [Arm(icl_run(v, "small", seed, SMALL_GRADIENTS)) for v in ("classic", "value")]
        arms += [
            named("stream of initial values", "value", seed, streams=(Stream("v", weights="initial"),)),
            named("untied extra path", "value", seed, streams=(Stream("v", weights="untied"),)),
            named("classic, V2 scaled", "classic", seed, starts=(scaled,)),
            named("classic, V2 starts as V1 + V2", "classic", seed, starts=(sum_of_both,)),
            named("classic, V rate x2", "classic", seed, at_rate(2.0, V1, V2)),
            named("classic, V1 rate x2", "classic", seed, at_rate(2.0, V1)),
            named("value, V1 rate x0.5", "value", seed, at_rate(0.5, V1)),
        ]
    return arms


CONTROLS = Experiment(
    "controls", _controls, "Is it something duller than a stream of values?", against_value, of=IN_SMALL
)


def _again(arm: str, seed: int) -> Arm:
    """What an arm's name says after its variant, which is all that it has otherwise."""
    from circuits.config.gains import FixedGain
    from circuits.config.parts import Start
    from circuits.config.streams import Stream
    from experiments.runs.training_config import Rate
    from experiments.studies.schedules import SMALL, named

    variant, _, what = arm.partition(", ")
    changed, _, by = what.partition(" x")
    training, model = SMALL, dict[str, Any]()
    match changed:
        case "":
            pass
        case "V2 starts as V1":
            model["starts"] = (Start(V2, scale=0.0, add=V1),)
        case "V rate":
            training = replace(SMALL, rates=(Rate(V1, float(by)), Rate(V2, float(by))))
        case "values":
            # A gain of its own values belongs to a stream, which here brings nothing.
            model["streams"] = (Stream("v", gain=FixedGain(own=float(by)), gate="off"),)
        case "stream":
            model["streams"] = (Stream("v", gain=FixedGain(stream=float(by))),)
        case _:
            raise ValueError(f"no arm is made as {arm!r} says")
    return named(arm, variant, seed, training, **model)


AGAIN = Declared.of("controls-again", _again, IN_SMALL)
STUDY = Study(
    name="controls",
    question="Is it something simpler than a stream of values?",
    experiments=(CONTROLS, AGAIN.experiment),
    pictures=(ratios_picture("controls", CONTROLS), AGAIN.picture),
    blocks=(speed_block(CONTROLS), *AGAIN.blocks),
)
