"""What foretaste costs and gains, measured beside the plain version or the peers."""

import foretaste  # noqa: F401  before torch is loaded, as in use: it sets how long threads spin
