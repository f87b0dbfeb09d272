{ start = ./worker.sh; }
