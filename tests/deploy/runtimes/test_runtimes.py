from every_runtime import TestEveryRuntime

__all__ = ["TestEveryRuntime"]
