# For the package alone, whose own stubs say what others may use.
from typing import Any

def __getattr__(name: str) -> Any: ...
