"""One page of pictures: what every checkpoint paints, finds and recognizes on held-out inputs.

`build` runs the sections one after the other, then puts the finished page in place of the last
one. Every picture is of the first held-out cases of its kind; none is chosen for its looks.
"""

from insitu.evaluation.gallery.builder import build

__all__ = ["build"]
