"""The route switchboard: a model's graph by route, to click through, as a page or in a notebook."""

from figures.explore.page import switchboard_page, write_switchboard
from figures.explore.widget import switchboard_widget

__all__ = ["switchboard_page", "switchboard_widget", "write_switchboard"]
