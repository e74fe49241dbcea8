"""`python -m modeldoctor`."""

from modeldoctor.cli import main

if __name__ == "__main__":
    main()
