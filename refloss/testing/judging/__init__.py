"""What is due on a case, how far a correct kernel may be off it, and whether that could tell anything at all."""
