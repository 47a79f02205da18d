"""This code beside other programs, in processes that run in turns."""
