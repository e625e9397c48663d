"""What `active_rows` and `attention` ask for until they move or go."""


def is_compiled() -> bool:
  return False


def takes(*arrays) -> bool:
  del arrays
  return False
