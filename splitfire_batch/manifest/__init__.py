"""What a destination knows of itself: one row per track, in Parquet parts that never change.

Read in this order: `schema` has the columns, `parts` the rows (a part's put is the commit), `ledger` says
from them what is settled, and makes views. `snapshots` repeat what many parts say, `holdings` the settings
that stems were made with, `outcomes` what a driver is told of a row. `reconcile` compares rows with what
lies in the store, `garbage` finds what no row names.

    _splitfire/
      settings/<settings_id>.json                                  holdings
      parts/<settings_id>/<run_id>/<shard>-<hash>.parquet          the truth
      ledger/                                                      snapshots of many parts
      runs/<run_id>/                                               a run's plan, suspects and report
      weights/                                                     for workers elsewhere, see models.mirrors
      views/tracks.parquet, stems.parquet                          for readers; made from parts
"""
