"""Classes with the names, the fields and the pickled form of those in Python's checkpoint-engine."""
import torch

try:
    from pydantic import BaseModel, ConfigDict

    class _Model(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)

except ImportError:  # none, or version 1
    class _Model:
        """pydantic's pickling contract: a state of four entries."""

        __slots__ = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")

        def __init__(self, **fields):
            assert list(fields) == list(self.__annotations__), fields
            self.__setstate__({"__dict__": fields, "__pydantic_extra__": None, "__pydantic_fields_set__": set(fields), "__pydantic_private__": None})

        def __getstate__(self):
            return {
                "__dict__": self.__dict__,
                "__pydantic_extra__": self.__pydantic_extra__,
                "__pydantic_fields_set__": self.__pydantic_fields_set__,
                "__pydantic_private__": self.__pydantic_private__,
            }

        def __setstate__(self, state):
            for name in ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__"):
                object.__setattr__(self, name, state[name])
            assert list(self.__dict__) == list(self.__annotations__), self.__dict__


class ParameterMeta(_Model):
    name: str
    dtype: torch.dtype
    shape: torch.Size
    aligned_size: int


class MemoryBufferMetas(_Model):
    metas: list
    ptr: int
    size: int


class MemoryBufferMetaList(_Model):
    p2p_store_addr: "str | None"
    memory_buffer_metas_list: list
    rdma_device: str
