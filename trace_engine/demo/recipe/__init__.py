"""How the bundled pack is made: extract, sets, training and the model card.

Nothing in the app imports this package; it is here so that every committed byte of the pack can be
made again. The steps run in the order extract, build_sets, train (three times), `trace-moe profile`
(twice), card; the model card lists the commands.
"""
