# The agent leads requests where the pool's routing table says; the program tells that it stands by.
{ start = ./gateway.sh; }
