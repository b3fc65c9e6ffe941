import logging

# When it is imported, matplotlib tells users without a home, or whose home is read-only, where it keeps its cache instead.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
