"""The options of the commands: their types, their groups, their help, and the objects that they choose."""
