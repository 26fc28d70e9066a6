"""Growing the dataset: seeds and accepted dialogues are shown to a chat model, which writes more.

The core is pure: ``settings``, ``quota``, ``policy``, ``plan``, ``prompt``, ``ladder``, ``checks``, ``duplicates``,
``drift``, ``money``, ``pressure`` and ``state`` take values, an ``rng`` and ``now``, and do no I/O. The edges: ``pool``
(the log on disk), ``cache`` (paid replies), ``client`` and ``batch`` (the endpoint), ``view`` (the terminal). ``loop``
ties them together. ``README.md`` in this folder says what each file of a pool holds and what every code means.
"""
