"""Colours and the font of every drawing."""

# Okabe & Ito's colours, which people with any colour vision can tell apart.
BLACK, BLUE, SKY, GREEN, ORANGE, VERMILION, PINK, YELLOW = (
    "#222222",
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#B8A800",
)
FONT = "Inter, Helvetica, Arial, sans-serif"
