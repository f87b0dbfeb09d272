# tier: full
# minutes: 10
# Every wrong input of lib/wrong-inputs.txt gives a clear error in the documented form and the right exit
# code, and changes nothing.
source /usr/local/lib/mvm-e2e/wrong-inputs.sh
