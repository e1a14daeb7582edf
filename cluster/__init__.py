"""Where the work is done: Ray actors, and the pool that feeds them. The only package that imports ray."""
