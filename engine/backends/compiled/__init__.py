"""The compile engine: packages that AOTInductor compiled for this kind of machine."""
