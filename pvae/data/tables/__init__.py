"""Tables: text files and data frames become the arrays of a data set, with names, types and labels."""
