"""`python -m condu_cli` is the same program as the `condu` script."""

from condu_cli.main import main

if __name__ == "__main__":
    main()
