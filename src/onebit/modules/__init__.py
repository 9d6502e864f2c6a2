"""Torch modules that hold bits: a packed net as a module, and packed layers in place of the binary ones of a model."""
