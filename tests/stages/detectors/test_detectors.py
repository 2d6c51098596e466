from every_detector import TestEveryDetector

__all__ = ["TestEveryDetector"]
