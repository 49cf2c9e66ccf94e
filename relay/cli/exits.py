"""Exit codes; those of sysexits.h where it has one."""

EX_CUT_OFF = 1  # a drain that did not come to its end
EX_UNAVAILABLE = 69  # the store is away; try again
EX_IOERR = 74  # the store failed: start again, recovery begins from its log; or it is damaged
EX_CONFIG = 78  # something in the configuration must be mended first
