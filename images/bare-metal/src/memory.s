/* What compiled Rust expects of a C library, which the host target leaves to one: the memory functions.
   Plain SSE moves: under software emulation `rep movsb` takes two to three times as long from 24 bytes up. */

.section .text
.balign 16
.global memcpy, memmove, memset, memcmp, bcmp, strlen

memmove:
        movq %rdi, %rax
        subq %rsi, %rax
        cmpq %rdx, %rax
        jb copy_down                    /* the destination begins inside the source */
memcpy:
        movq %rdi, %rax
        cmpq $16, %rdx
        jb copy_small
        /* Read before anything is written: the ranges may overlap. */
        movups -16(%rsi,%rdx), %xmm2
        leaq -16(%rdi,%rdx), %r8
        cmpq $32, %rdx
        jbe 2f
1:      movups (%rsi), %xmm0
        movups 16(%rsi), %xmm1
        movups %xmm0, (%rdi)
        movups %xmm1, 16(%rdi)
        addq $32, %rsi
        addq $32, %rdi
        subq $32, %rdx
        cmpq $32, %rdx
        ja 1b
        /* 1 to 32 bytes are left: up to 16 of them, then the last 16, which may overlap. */
2:      cmpq $16, %rdx
        jbe 3f
        movups (%rsi), %xmm0
        movups %xmm0, (%rdi)
3:      movups %xmm2, (%r8)
        ret

copy_down:
        movq %rdi, %rax
        cmpq $16, %rdx
        jb copy_small
        movups (%rsi), %xmm2
4:      cmpq $16, %rdx
        jbe 5f
        movups -16(%rsi,%rdx), %xmm0
        movups %xmm0, -16(%rdi,%rdx)
        subq $16, %rdx
        jmp 4b
5:      movups %xmm2, (%rdi)
        ret

/* Fewer than 16 bytes: two moves that may overlap, both read before either is written. */
copy_small:
        cmpq $8, %rdx
        jb 6f
        movq (%rsi), %rcx
        movq -8(%rsi,%rdx), %r8
        movq %rcx, (%rdi)
        movq %r8, -8(%rdi,%rdx)
        ret
6:      cmpq $4, %rdx
        jb 7f
        movl (%rsi), %ecx
        movl -4(%rsi,%rdx), %r8d
        movl %ecx, (%rdi)
        movl %r8d, -4(%rdi,%rdx)
        ret
7:      testq %rdx, %rdx
        je 8f
        /* 1 to 3 bytes: first, middle, last. */
        movzbl (%rsi), %ecx
        movzbl -1(%rsi,%rdx), %r8d
        movq %rdx, %r9
        shrq $1, %r9
        movzbl (%rsi,%r9), %r10d
        movb %cl, (%rdi)
        movb %r10b, (%rdi,%r9)
        movb %r8b, -1(%rdi,%rdx)
8:      ret

memset:
        movq %rdi, %rax
        movzbl %sil, %esi
        movabsq $0x0101010101010101, %rcx
        imulq %rcx, %rsi
        cmpq $16, %rdx
        jb 2f
        movq %rsi, %xmm0
        punpcklqdq %xmm0, %xmm0
        leaq -16(%rdi,%rdx), %r8
1:      movups %xmm0, (%rdi)
        addq $16, %rdi
        cmpq %r8, %rdi
        jb 1b
        movups %xmm0, (%r8)
        ret
2:      cmpq $8, %rdx
        jb 3f
        movq %rsi, (%rdi)
        movq %rsi, -8(%rdi,%rdx)
        ret
3:      cmpq $4, %rdx
        jb 4f
        movl %esi, (%rdi)
        movl %esi, -4(%rdi,%rdx)
        ret
4:      testq %rdx, %rdx
        je 5f
        movb %sil, (%rdi)
        movb %sil, -1(%rdi,%rdx)
        shrq $1, %rdx
        movb %sil, (%rdi,%rdx)
5:      ret

bcmp:
memcmp:
        xorl %eax, %eax
1:      cmpq $8, %rdx
        jb 2f
        movq (%rdi), %rcx
        movq (%rsi), %r8
        cmpq %r8, %rcx
        jne 4f
        addq $8, %rdi
        addq $8, %rsi
        subq $8, %rdx
        jmp 1b
2:      testq %rdx, %rdx
        je 3f
        movzbl (%rdi), %eax
        movzbl (%rsi), %ecx
        subl %ecx, %eax
        jne 3f
        incq %rdi
        incq %rsi
        decq %rdx
        jmp 2b
3:      ret
        /* The first byte that differs decides: big-endian order. */
4:      bswapq %rcx
        bswapq %r8
        cmpq %r8, %rcx
        sbbl %eax, %eax
        orl $1, %eax
        ret

strlen:
        xorl %eax, %eax
1:      cmpb $0, (%rdi,%rax)
        je 2f
        incq %rax
        jmp 1b
2:      ret

/* The host target's prebuilt alloc was compiled for unwinding, and names these two. Nothing unwinds here: a panic ends the guest. */
.global _Unwind_Resume, rust_eh_personality
_Unwind_Resume:
rust_eh_personality:
        ud2
