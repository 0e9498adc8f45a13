"""What of torch goes into a pickle of metas, for a Python that has no torch."""
import sys

__version__ = "stand-in"


class dtype:
    def __init__(self, name):
        self.name = name
        self.__module__ = "torch"

    def __reduce__(self):
        return self.name

    def __repr__(self):
        return "torch." + self.name


class Size(tuple):
    def __reduce__(self):
        return (Size, (tuple(self),))


for _name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split():
    setattr(sys.modules[__name__], _name, dtype(_name))
