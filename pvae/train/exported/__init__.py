"""Files that other programs can load without pvae: the functions of encoder and decoder, and the parameters."""
