"""Compare exported graphs with autograd."""
