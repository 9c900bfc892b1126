"""The lanes, by number: each module measures (`run`), and shows what it found (`tables`, `plots`).

A module whose lanes are several has classes of them; all have TITLE and TEXT too.
"""

from . import failover, features, idle, requests, sizes, speech, streams, tls, uploads

LANES = {
    1: requests.ByPath(),
    2: requests.ByModel(),
    3: streams.Events(),
    4: uploads.Uploads(),
    5: streams.Memory(),
    6: failover.Failover(),
    7: sizes.Sizes(),
    8: tls.Handshakes(),
    9: speech.Speech(),
    10: idle.Idle(),
    11: features.KeysAndLimits(),
    12: features.FromMemory(),
}
