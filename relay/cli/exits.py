"""Exit codes; those of sysexits.h where it has one."""

EX_CUT_OFF = 1  # a drain that did not come to its end
EX_DATAERR = 65  # a backup that is not whole, or not one for here
EX_NOINPUT = 66  # there is nothing to back up
EX_UNAVAILABLE = 69  # the store is away; try again
EX_CANTCREAT = 73  # something is there already, and is kept
EX_IOERR = 74  # the store failed: start again, recovery begins from its log; or it is damaged; or a disk is full
EX_TEMPFAIL = 75  # somebody is using it; try again when it is free
EX_CONFIG = 78  # something in the configuration must be mended first
