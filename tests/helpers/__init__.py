"""What the tests share: tiny models, slow references, the command line and the pages driven."""
