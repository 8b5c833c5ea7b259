"""A font with Chinese glyphs for figures, from a data package: no reader's system needs one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from attn_core.data import packages
from attn_core.extras import needed

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties


def chinese_path() -> Path:
    """The file of Noto Sans SC Regular inside its data package.

    Returns:
        Its path.

    Raises:
        MissingDataError: the package is not installed.

    Example:
        >>> chinese_path().name
        'NotoSansSC-Regular.otf'
    """
    return packages.files(packages.CHINESE_FONT.name, r"NotoSansSC-Regular\.otf$")[0]


def use_chinese() -> str:
    """Register the packaged font with Matplotlib.

    Every text of a figure falls back to it, from now until the style changes, for glyphs that its
    own font lacks: call it after `attn_core.plot.use_book_style()`.

    Returns:
        The name of its family.

    Raises:
        MissingDataError: the package is not installed.

    Example:
        >>> import matplotlib
        >>> with matplotlib.rc_context():
        ...     use_chinese()
        'Noto Sans SC'
    """
    with needed("a font for figures"):
        import matplotlib
        from matplotlib import font_manager

    path = chinese_path()
    font_manager.fontManager.addfont(path)
    family = font_manager.get_font(path).family_name
    # The package has one weight. It stands for bold too, or Matplotlib would warn at every title;
    # and a system font of the same name must not win.
    own = next(font for font in font_manager.fontManager.ttflist if Path(font.fname) == path)
    others = [font for font in font_manager.fontManager.ttflist if font.name != family]
    font_manager.fontManager.ttflist = [*others, own, dataclasses.replace(own, weight=700)]
    families = [name for name in matplotlib.rcParams["font.family"] if name != family]
    matplotlib.rcParams["font.family"] = [*families, family]
    return family


def chinese() -> FontProperties:
    """Matplotlib's properties of the packaged font, by path.

    Returns:
        Properties for the argument `font` of `attn_core.plot`.

    Raises:
        MissingDataError: the package is not installed.

    Example:
        >>> chinese().get_name()
        'Noto Sans SC'
    """
    with needed("a font for figures"):
        from matplotlib.font_manager import FontProperties

    return FontProperties(fname=chinese_path())
