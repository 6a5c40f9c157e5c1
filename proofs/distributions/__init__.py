"""The wheel and the sdist in other versions of Debian."""
