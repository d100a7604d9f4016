"""Who kept the processors and the memory busy, by control group; of what is in none, by process."""

from wattgram.sources.cgroups.source import Options as Options  # the registry's word for it
from wattgram.sources.cgroups.source import open_source as open_source
