"""Import this before open3d where no window is ever opened: what its plotting needs (dash, plotly, IPython) takes longer to load than all
the rest of it, and 60 MB."""

import sys
from types import ModuleType

_PLOTTING = "open3d.visualization.draw_plotly"
if "open3d" not in sys.modules:
    _nothing = ModuleType(_PLOTTING)
    for _name in ("get_plotly_fig", "draw_plotly", "draw_plotly_server"):
        setattr(_nothing, _name, None)
    sys.modules[_PLOTTING] = _nothing
