"""LiteRT: the stock LiteRT-LM engine, and our own loop over the bundle's signatures."""
