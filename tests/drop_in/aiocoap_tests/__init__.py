"""In place of what the sdist of aiocoap lacks of its folder `tests`."""
