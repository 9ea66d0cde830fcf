"""Colours and the font of every drawing: one colour has one meaning."""

# Okabe & Ito's colours, which people with any colour vision can tell apart, and some that are further from these.
BLACK, BLUE, SKY, GREEN, ORANGE, VERMILION, PINK, OLIVE = (
    "#222222",
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#B8A800",
)
PURPLE, TEAL, AQUA = "#7A5195", "#01665E", "#80CDC1"
GREY = "#9A9A9A"
"""Lines that something is compared with, and what is set aside."""
ROUTES = {"residual": BLACK, "stream": BLUE, "own": PURPLE}
"""By the residual stream, as all of a classic model; by the stream of values; a projection to its own head."""
EARLIER_TO_LATER = ("#DFC27D", "#BF812D", "#8C510A", "#543005")
"""Of what comes one after the other: layers, the times of a change."""
SIMILARITIES = {"dot": "#332288", "pearson": "#CC6677", "manhattan": "#117733", "euclidean": TEAL}
"""Of an associative memory."""
FONT = "Inter, Helvetica, Arial, sans-serif"
