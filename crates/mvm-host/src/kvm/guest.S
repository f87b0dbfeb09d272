# The guest of the boot probe: what a Linux kernel does early and a poor emulation of a processor
# cannot do. It starts as Firecracker starts a kernel: 64-bit mode, the first GiB mapped, interrupts
# off. It says "mvm-probe: alive" on the serial port and asks for a reset; it touches no device else.
# The bytes in `guest.hex` are made from this file: a test of `kvm.rs` compares them.
        .code64
        .globl  _start
_start:
        lea     stack_top(%rip), %rsp
        # What this processor says it can do decides what is tried.
        mov     $1, %eax
        cpuid
        mov     %ecx, %ebp
        bt      $23, %ebp
        jnc     1f
        mov     $0xff, %eax
        popcnt  %rax, %rbx
        cmp     $8, %rbx
        jne     fail
1:      bt      $13, %ebp
        jnc     2f
        xor     %eax, %eax
        xor     %edx, %edx
        mov     $1, %ebx
        mov     $2, %ecx
        lea     pair(%rip), %rdi
        lock cmpxchg16b (%rdi)
        jne     fail
        cmpq    $2, 8(%rdi)
        jne     fail
2:      bt      $26, %ebp
        jnc     3f
        # CR4.OSFXSR and OSXSAVE, then x87 and SSE state saved and restored.
        mov     %cr4, %rax
        or      $0x40200, %rax
        mov     %rax, %cr4
        mov     $3, %eax
        xor     %edx, %edx
        xor     %ecx, %ecx
        xsetbv
        mov     $0x1234, %eax
        movq    %rax, %xmm5
        lea     area(%rip), %rdi
        mov     $3, %eax
        xsave   (%rdi)
        pxor    %xmm5, %xmm5
        mov     $3, %eax
        xor     %edx, %edx
        xrstor  (%rdi)
        movq    %xmm5, %rax
        cmp     $0x1234, %rax
        jne     fail
        # A breakpoint through a table of our own, and back.
3:      lea     breakpoint(%rip), %rax
        lea     table(%rip), %rdi
        mov     %ax, 48(%rdi)
        mov     %cs, %dx
        mov     %dx, 50(%rdi)
        movw    $0x8e00, 52(%rdi)
        shr     $16, %rax
        mov     %ax, 54(%rdi)
        movl    $0, 56(%rdi)
        movw    $63, pointer(%rip)
        mov     %rdi, pointer+2(%rip)
        lidt    pointer(%rip)
        xor     %r12d, %r12d
        int3
        cmp     $1, %r12d
        jne     fail
        # User mode and back: pages open to it, a system call out of it.
        mov     %cr3, %rax
        and     $-4096, %rax
        orq     $4, (%rax)
        mov     (%rax), %rbx
        and     $-4096, %rbx
        orq     $4, (%rbx)
        mov     (%rbx), %rcx
        and     $-4096, %rcx
        xor     %esi, %esi
4:      orq     $4, (%rcx,%rsi,8)
        inc     %esi
        cmp     $512, %esi
        jne     4b
        mov     %rax, %cr3
        mov     $0xc0000080, %ecx
        rdmsr
        or      $1, %eax
        wrmsr
        mov     $0xc0000081, %ecx
        xor     %eax, %eax
        mov     $0x00100008, %edx
        wrmsr
        lea     system_call(%rip), %rax
        xor     %edx, %edx
        mov     $0xc0000082, %ecx
        wrmsr
        xor     %eax, %eax
        mov     $0xc0000084, %ecx
        wrmsr
        lea     user(%rip), %rcx
        mov     $2, %r11d
        sysretq
user:   # Work that takes milliseconds on a processor and for ever when each step is emulated.
        mov     $10000000, %rdi
5:      dec     %rdi
        jnz     5b
        mov     $0x77, %r13d
        syscall
system_call:
        cmp     $0x77, %r13d
        jne     fail
        lea     alive(%rip), %rsi
        mov     $17, %ecx
        jmp     say
fail:   lea     wrong(%rip), %rsi
        mov     $17, %ecx
say:    mov     $0x3f8, %dx
        rep outsb
        mov     $0xfe, %al
        out     %al, $0x64
6:      hlt
        jmp     6b
breakpoint:
        inc     %r12d
        iretq
alive:  .ascii  "mvm-probe: alive\n"
wrong:  .ascii  "mvm-probe: wrong\n"
        .balign 16
pair:   .quad   0, 0
pointer: .word  0
        .quad   0
        .balign 64
        # Behind the file: zeroed memory that the loader gives (a page).
end:
        .equ    table, end
        .equ    area, end + 64
        .equ    stack_top, end + 4096
