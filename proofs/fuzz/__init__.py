"""Random programs over every public class, in child processes: see ``__main__``."""
