"""Model families: export-friendly decoders and towers, functional, with every weight passed in from outside."""
