"""`python -m services.webhooks`: makes the signed calls."""

from services.webhooks.process import main

if __name__ == "__main__":
    main()
