"""What removes redundancy, a folder a method; ``method.py`` says what a method must say."""
