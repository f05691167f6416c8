"""What is due on a case, how far an honest kernel may stray from it, and whether that could tell anything at all."""
