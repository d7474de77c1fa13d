"""What nodes do in Redis to who is there, and ask about it; each script is in `lua/realtime`.

What they have in common is in `lua/realtime/parts`: `basics.lua` lists the keys, and what every
script is told first.
"""

from switchboard_server.backends.redis.scripts import read

BEGIN = read("realtime/begin")
RENEW = read("realtime/renew")
END = read("realtime/end")
ADMIT = read("realtime/admit")
RESTATE = read("realtime/restate")
PART = read("realtime/part")
ENTER = read("realtime/enter")
LEAVE = read("realtime/leave")
SEND = read("realtime/send")
CATCH_UP = read("realtime/catch_up")

FIND = read("realtime/find")
HOSTS = read("realtime/hosts")
ROOM_NAMES = read("realtime/room_names")
ROOMS = read("realtime/rooms")
MEMBERS = read("realtime/members")
USER_NAMES = read("realtime/user_names")
USERS = read("realtime/users")
CONNECTIONS = read("realtime/connections")
LATEST = read("realtime/latest")
AFTER = read("realtime/after")
