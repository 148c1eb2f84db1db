"""Import this before open3d where no window is ever opened: what its plotting needs (dash, plotly, IPython) takes as long to load as all
the rest of it (0.5 CPU s), and 41 MiB of memory; 28 beside numpy and scipy, which it shares modules with."""

import sys
from types import ModuleType

_PLOTTING = "open3d.visualization.draw_plotly"
if "open3d" not in sys.modules:
    _nothing = ModuleType(_PLOTTING)
    for _name in ("get_plotly_fig", "draw_plotly", "draw_plotly_server"):
        setattr(_nothing, _name, None)
    sys.modules[_PLOTTING] = _nothing
