"""`python -m jaxnlme` is the command line."""

from jaxnlme.frontends.cli.commands import main

if __name__ == "__main__":
    main()
