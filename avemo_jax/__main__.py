"""`python -m avemo_jax VERB …` is `avemo VERB …`."""

from avemo_jax.cli import main

raise SystemExit(main())
