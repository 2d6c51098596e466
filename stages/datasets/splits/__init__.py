"""Which split of the data serves as which, and a val split held out of train if there is none."""
