"""`python -m empirics.cli`, for programs that launch modules."""

from empirics.cli import main

if __name__ == "__main__":
    main()
