"""The export target `html`: a web page that runs a packed net."""
