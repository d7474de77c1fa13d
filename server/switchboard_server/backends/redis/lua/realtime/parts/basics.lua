-- What every script of realtime begins with. Before what its own comment calls Args, each gets the
-- node that asks, the time in ms ("": by Redis's clock) and the channel of realtime, which the name
-- of a node makes that node's own.
--
-- All keys begin with KEYS[1]; they are, by the word that follows it:
--
-- life            the life of the data that the rest was written in
-- seq             grows with every message and every change of a room
-- nodes           sorted set: the nodes, by the time in ms up to which each is taken to be alive;
--                 by 0 one that was taken for dead, and of which not all is forgotten yet
-- node:N          set: the connections of a node
-- conns, conns:T  sorted set: the names of all connections, in order; those of a transport
-- c:ID            hash: a connection: n its node, k its token, u its user, t its transport, p its
--                 peer, s when it was opened, d the node's name; r:ROOM when it joined that room
-- users           sorted set: the users who are online, in order
-- user:U, un:U    sorted set: a user's connections, in order; hash: how many of them on each node
-- rooms           sorted set: the rooms in which somebody stands, in order
-- r:R             hash: t when the room was made, v the number of its last change
-- m:R, u:R        sorted set: who stands in a room, in order; hash: connections of each user there
-- n:R, w:R        hash: how many stand there on each node; nodes on which somebody watches
-- h:R, l:R        hash: a room's history: e epoch, o offset, t when it was made, i when its count
--                 ends (0: not yet), l how long a message is kept, f the life; list: its messages
-- kept, due, old  sorted set: the rooms whose history holds a message, in order; by when its last
--                 one expires; by the number of its last one
-- sizes, bytes    sorted set: bytes of each history; bytes of all
--
-- A message in a history is "EXPIRES SEQ", its head and its content, on a line each. A node writes
-- only while it is among `nodes`, and not by 0. Once it was taken for dead, every script of its own fails with
-- SWEPT, so that nothing of it is left behind.

local B, NODE, CLOCK, CHANNEL = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local call = redis.call
local function k(kind, name) return B .. kind .. ':' .. name end
local function digits(n) return string.format('%.0f', n) end

local function now()
  if CLOCK ~= '' then return tonumber(CLOCK) end
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
