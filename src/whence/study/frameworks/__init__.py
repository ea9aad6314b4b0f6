"""The study of the frameworks: the same methods, weights and digits in each, measured in processes of their own."""
