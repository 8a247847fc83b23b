"""What the user sees while the program works. Imports nothing else of the library, and no TensorFlow."""
